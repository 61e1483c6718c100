"""From a recipe to a finished picture: what is painted, in which colours, with what.

Chance is drawn from two streams. The composition follows prompt, negative prompt, model, size
and seed; the handwriting (strokes, grain, noise) the whole recipe. So turning the strength or
the guidance of a picture changes how it is painted and not what is on it, as with a real model,
and yet no field of a recipe can change without changing pixels.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

import numpy as np
from PIL import Image

from generator.engines.sketch.painting.canvas import Canvas
from generator.engines.sketch.painting.media import MEDIA, canvas_of
from generator.engines.sketch.painting.motifs import MOTIFS
from generator.engines.sketch.painting.noise import Random, fractal, smoothstep
from generator.engines.sketch.painting.palettes import Palette, palettes
from generator.sheet.recipe import Recipe

_OVERPAINTED = 0.4
"""Strength from which no pixel of a base image itself is left."""
_CANVAS_EDGE = 720
"""Longest edge of the canvas under the brush, pixels; finer detail is the medium's."""

_MOTIF_WORDS: tuple[tuple[str, str], ...] = (
    (
        "crowd",
        r"crowd\b|crowds|people|public|citizens?|voters?|workers?|masses|meeting|students?|epic",
    ),
    (
        "portrait",
        r"portrait|person|face|man|woman|researcher|ceo|crowdworker|artist|painter|novelist|theorist|officer|president|leader|poet",
    ),
    ("village", r"villages?|kampung|kampong|river|houses?|settlements?|rural|squatters?"),
    ("sea", r"sea|ocean|harbou?r|port|ships?|boats?|coast|bay|beach|waves?|water|straits?"),
    (
        "archipelago",
        r"map|maps|territory|archipelago|peninsula|islands?|borders?|nation|nationhood|malaya|malayan|colon\w+",
    ),
    (
        "city",
        r"city|cities|town|urban|street|skyline|towers?|buildings?|architecture|singapore|lights",
    ),
    (
        "garden",
        r"gardens?|jungle|forest|plants?|flowers?|leaves|plantations?|trees?|botanical|tropical",
    ),
    (
        "interior",
        r"room|interior|house|window|office|desk|studio|kitchen|library|lecture|school|computer",
    ),
    ("still life", r"still life|fruits?|table|bowl|bottle|vase|food|objects?|box|boxes"),
    (
        "hills",
        r"landscapes?|mountains?|hills?|valley|fields?|hinterland|countryside|horizon|sunrise|sunset",
    ),
    (
        "currents",
        r"network|networks|data|internet|diffusion|noise|communications?|feedback|latent|signal|wind|storm|media",
    ),
    ("colour field", r"abstract|colou?r field|void|silence|memory|monochrome|empty|emptiness"),
)

_PALETTE_WORDS: tuple[tuple[str, str], ...] = (
    (r"night|nocturne|dark|moon|midnight|war", "nocturne prussian ember"),
    (r"sea|ocean|water|rain|monsoon", "monsoon prussian verdigris nocturne"),
    (r"jungle|garden|forest|plant\w*|green", "jungle verdigris islands harvest"),
    (r"sunset|dusk|evening|fire|red|communis\w+|revolt|struggle", "ember dusk islands plum"),
    (
        r"painting|epic|history|malaya\w*|independence|colonial|gauguin",
        "ochre dusk islands harvest",
    ),
    (r"data|tech|computer|network|internet|media|photo\w*", "prussian silver monsoon plum dusk"),
    (r"morning|spring|hope|peace|love", "rose harvest verdigris"),
)

_FINENESS = {"city": 0.62, "crowd": 0.66, "portrait": 0.72, "interior": 0.62, "still life": 0.8}
"""Motifs with much to see in little room are painted with smaller brushes."""

_MEDIUM_OF_MOTIF = {"archipelago": "woodcut wash", "colour field": "wash oil", "currents": "oil"}


@dataclass(frozen=True, slots=True)
class PaintingPlan:
    """What is painted, in which colours, with what: names of motif, palette and medium."""

    motif: str
    palette: str
    medium: str


def stream(recipe: Recipe, purpose: str) -> Random:
    """Chance for one purpose that depends on the whole recipe, seed included."""
    return _random(recipe.fingerprint, recipe.seed, purpose)


def _random(*parts: object) -> Random:
    digest = hashlib.sha256("\0".join(str(part) for part in parts).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


def plan(recipe: Recipe) -> PaintingPlan:
    """Choose motif, palette and medium; what the prompt hints at, else its hash."""
    text = recipe.prompt.casefold()
    chosen = _random("subject", text, recipe.model)
    varied = _random("variation", text, recipe.model, recipe.negative_prompt, recipe.seed)
    found = [name for name, words in _MOTIF_WORDS if re.search(rf"\b(?:{words})\b", text)]
    motif = found[0] if found else list(MOTIFS)[int(chosen.integers(len(MOTIFS)))]
    names = " ".join(
        choice for words, choice in _PALETTE_WORDS if re.search(rf"\b(?:{words})\b", text)
    )
    candidates = names.split() or list(palettes())
    # A prompt keeps to three palettes, so that its sets are siblings.
    own = [candidates[int(index)] for index in chosen.permutation(len(candidates))[:3]]
    palette = own[int(varied.integers(len(own)))]
    if "photo" in text:
        medium = "lens"
    elif re.search(r"woodcut|print|engraving|linocut", text):
        medium = "woodcut"
    elif re.search(r"watercolou?r|gouache|ink|wash", text):
        medium = "wash"
    else:
        choices = _MEDIUM_OF_MOTIF.get(motif, "oil oil oil wash woodcut").split()
        medium = choices[int(chosen.integers(len(choices)))]
        if "paint" in text and motif not in _MEDIUM_OF_MOTIF:
            medium = "oil"
    return PaintingPlan(motif, palette, medium)


def paint(recipe: Recipe, base: Image.Image | None = None) -> Image.Image:
    """The finished picture of a recipe, RGB, of the recipe's size.

    Args:
        recipe: what to paint.
        base: for image-to-image, the decoded base, RGB, of the recipe's size.
    """
    what = plan(recipe)
    palette = palettes()[what.palette]
    scale = min(1.0, _CANVAS_EDGE / max(recipe.width, recipe.height))
    size = (max(8, round(recipe.width * scale)), max(8, round(recipe.height * scale)))
    canvas = Canvas(*size, palette.haze)
    composition = _random(
        "composition",
        recipe.prompt,
        recipe.negative_prompt,
        recipe.model,
        recipe.width,
        recipe.height,
        recipe.seed,
    )
    MOTIFS[what.motif](canvas, composition, palette)
    strength = 1.0
    if base is not None:
        strength = recipe.strength or 0.0
        _repaint(canvas, base, composition, palette, strength)
    _grade(canvas, recipe)
    hand = stream(recipe, "hand")
    coarse = (0.55 + 0.45 * strength) * _FINENESS.get(what.motif, 0.9)
    final = MEDIA[what.medium](canvas, hand, palette, (recipe.width, recipe.height), coarse)
    if base is not None and strength < _OVERPAINTED:
        final = Image.blend(base, final, float(np.sqrt(strength / _OVERPAINTED)))
    return final


def _repaint(
    canvas: Canvas, base: Image.Image, rng: Random, palette: Palette, strength: float
) -> None:
    """Bring a base image on to the canvas, over the motif, as far as `strength` leaves it.

    Up to about half, the base keeps its forms and takes on the motif's colours (Reinhard et
    al. 2001, "Color transfer between images"); beyond that the motif breaks through it, first
    in patches, until at 1 nothing of the base is left.
    """
    motif = canvas.planes.copy()
    canvas_of(base, canvas)
    planes = canvas.planes
    tint = float(np.clip((strength - 0.05) / 0.5, 0, 1))
    for index in range(3):
        mean, spread = planes[index].mean(), planes[index].std() + 1e-5
        gain = np.clip(motif[index].std() / spread, 0.6, 1.8)
        moved = (planes[index] - mean) * gain + motif[index].mean()
        share = tint * (0.65 if index == 0 else 0.85)
        planes[index] += (moved - planes[index]) * np.float32(share)
    ramp = [(value, palette.tone(value)) for value in (0.0, 0.25, 0.5, 0.75, 1.0)]
    toned = canvas.gradient([(0.12 + 0.8 * value, colour) for value, colour in ramp], planes[0])
    planes[1:] += (toned[1:] - planes[1:]) * np.float32(0.35 * tint)
    patches = fractal(rng, canvas.width, canvas.height, cells=2.2, octaves=5, gain=0.5)
    reach = (strength - 0.35) / 0.62
    cover = smoothstep(-0.55, 0.55, patches + np.float32(reach * 5.2 - 2.6))
    cover = np.clip(cover * min(1.0, max(0.0, strength - 0.25) * 3), 0, 1)
    planes += (motif - planes) * cover
    canvas.flow_weight *= cover


def _grade(canvas: Canvas, recipe: Recipe) -> None:
    """Guidance as a viewer knows it: more of it, more contrast and stronger colour."""
    push = float(np.clip((recipe.guidance_scale - 7.5) / 10.0, -0.75, 1.25))
    canvas.planes[1:] *= np.float32(1.0 + 0.28 * push)
    mean = canvas.planes[0].mean()
    canvas.planes[0] += (canvas.planes[0] - mean) * np.float32(0.05 + 0.16 * push)
    # The eye rests in the middle: corners a shade darker.
    far = ((canvas.x / canvas.aspect - 0.5) ** 2 + (canvas.y - 0.5) ** 2) * np.float32(0.11)
    canvas.planes[0] -= far
