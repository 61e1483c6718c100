"""How the sketch engine paints: demo art, made of colour, noise, canvas, motifs and media.

Nothing in here knows of engines or event loops.
"""
