"""What is painted. Each motif lays a composition on a canvas from a palette and chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from generator.engines._sketch.canvas import Canvas
from generator.engines._sketch.motifs.abstract import archipelago, colour_field, currents
from generator.engines._sketch.motifs.growth import garden
from generator.engines._sketch.motifs.interior import interior
from generator.engines._sketch.motifs.land import hills, village
from generator.engines._sketch.motifs.people import crowd
from generator.engines._sketch.motifs.portrait import portrait
from generator.engines._sketch.motifs.still_life import still_life
from generator.engines._sketch.motifs.town import city
from generator.engines._sketch.motifs.water import sea
from generator.engines._sketch.noise import Random
from generator.engines._sketch.palettes import Palette

Motif = Callable[[Canvas, Random, Palette], None]

MOTIFS: Mapping[str, Motif] = {
    "hills": hills,
    "village": village,
    "sea": sea,
    "city": city,
    "crowd": crowd,
    "portrait": portrait,
    "interior": interior,
    "still life": still_life,
    "garden": garden,
    "archipelago": archipelago,
    "colour field": colour_field,
    "currents": currents,
}
