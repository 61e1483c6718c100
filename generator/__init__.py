"""How pictures are drawn: the cue sheet, recipes, engines, and recording them into sets."""
