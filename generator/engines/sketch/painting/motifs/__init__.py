"""What is painted. Each motif lays a composition on a canvas from a palette and chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from generator.engines.sketch.painting.canvas import Canvas
from generator.engines.sketch.painting.motifs.abstract import archipelago, colour_field, currents
from generator.engines.sketch.painting.motifs.growth import garden
from generator.engines.sketch.painting.motifs.interior import interior
from generator.engines.sketch.painting.motifs.land import hills, village
from generator.engines.sketch.painting.motifs.people import crowd
from generator.engines.sketch.painting.motifs.portrait import portrait
from generator.engines.sketch.painting.motifs.still_life import still_life
from generator.engines.sketch.painting.motifs.town import city
from generator.engines.sketch.painting.motifs.water import sea
from generator.engines.sketch.painting.noise import Random
from generator.engines.sketch.painting.palettes import Palette

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
