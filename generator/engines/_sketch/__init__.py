"""How the sketch engine paints: colour, noise, canvas, motifs, media and its oracle diffusion.

Nothing in here knows of engines or event loops; `generator.engines.sketch` does.
"""
