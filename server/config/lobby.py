"""What the lobby says, in the languages that are shipped; any of it may be said otherwise.

Each text is whole, for in no two languages do the words stand in the same order. ``{time}`` is
the hour, ``{day}`` a weekday or, in the texts for a date, a day of a month, ``{left}`` minutes and
seconds: the page writes them as the language does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal

TEXTS: Final[Mapping[str, frozenset[str]]] = {
    "in_a_moment": frozenset(),
    "begins_in": frozenset({"left"}),
    "begins_today": frozenset({"time"}),
    "begins_tomorrow": frozenset({"time"}),
    "begins_weekday": frozenset({"day", "time"}),
    "begins_date": frozenset({"day", "time"}),
    "closed": frozenset(),
    "opens_today": frozenset({"time"}),
    "opens_tomorrow": frozenset({"time"}),
    "opens_weekday": frozenset({"day", "time"}),
    "opens_date": frozenset({"day", "time"}),
}
"""The texts, and what may stand in each."""

LONGEST: Final = 200
"""Characters of a text: it is one line on a wall."""

_SHIPPED: Final[Mapping[str, tuple[str, ...]]] = {
    "en": (
        "In a moment",
        "Begins in {left}",
        "Begins at {time}",
        "Begins tomorrow at {time}",
        "Begins on {day} at {time}",
        "Begins on {day} at {time}",
        "Closed",
        "Closed. Opens at {time}",
        "Closed. Opens tomorrow at {time}",
        "Closed. Opens on {day} at {time}",
        "Closed. Opens on {day} at {time}",
    ),
    "de": (
        "In wenigen Augenblicken",
        "Beginnt in {left}",
        "Beginnt um {time} Uhr",
        "Beginnt morgen um {time} Uhr",
        "Beginnt am {day} um {time} Uhr",
        "Beginnt am {day} um {time} Uhr",
        "Geschlossen",
        "Geschlossen. Öffnet um {time} Uhr",
        "Geschlossen. Öffnet morgen um {time} Uhr",
        "Geschlossen. Öffnet am {day} um {time} Uhr",
        "Geschlossen. Öffnet am {day} um {time} Uhr",
    ),
    "fr": (
        "Dans un instant",
        "Début dans {left}",
        "Début à {time}",
        "Début demain à {time}",
        "Début {day} à {time}",
        "Début le {day} à {time}",
        "Fermé",
        "Fermé. Ouverture à {time}",
        "Fermé. Ouverture demain à {time}",
        "Fermé. Ouverture {day} à {time}",
        "Fermé. Ouverture le {day} à {time}",
    ),
    "es": (
        "En un momento",
        "Comienza en {left}",
        "Comienza a las {time}",
        "Comienza mañana a las {time}",
        "Comienza el {day} a las {time}",
        "Comienza el {day} a las {time}",
        "Cerrado",
        "Cerrado. Abre a las {time}",
        "Cerrado. Abre mañana a las {time}",
        "Cerrado. Abre el {day} a las {time}",
        "Cerrado. Abre el {day} a las {time}",
    ),
    "it": (
        "Tra un momento",
        "Inizia tra {left}",
        "Inizia alle {time}",
        "Inizia domani alle {time}",
        "Inizia {day} alle {time}",
        "Inizia il {day} alle {time}",
        "Chiuso",
        "Chiuso. Apre alle {time}",
        "Chiuso. Apre domani alle {time}",
        "Chiuso. Apre {day} alle {time}",
        "Chiuso. Apre il {day} alle {time}",
    ),
    "pt": (
        "Dentro de momentos",
        "Começa em {left}",
        "Começa às {time}",
        "Começa amanhã às {time}",
        "Começa {day} às {time}",
        "Começa no dia {day} às {time}",
        "Fechado",
        "Fechado. Abre às {time}",
        "Fechado. Abre amanhã às {time}",
        "Fechado. Abre {day} às {time}",
        "Fechado. Abre no dia {day} às {time}",
    ),
    "nl": (
        "Over een ogenblik",
        "Begint over {left}",
        "Begint om {time} uur",
        "Begint morgen om {time} uur",
        "Begint {day} om {time} uur",
        "Begint op {day} om {time} uur",
        "Gesloten",
        "Gesloten. Opent om {time} uur",
        "Gesloten. Opent morgen om {time} uur",
        "Gesloten. Opent {day} om {time} uur",
        "Gesloten. Opent op {day} om {time} uur",
    ),
    "zh": (
        "即将开始",
        "{left} 后开始",
        "{time} 开始",
        "明天 {time} 开始",
        "{day} {time} 开始",
        "{day} {time} 开始",
        "已闭馆",
        "已闭馆。{time} 开放",
        "已闭馆。明天 {time} 开放",
        "已闭馆。{day} {time} 开放",
        "已闭馆。{day} {time} 开放",
    ),
    "zh-Hant": (
        "即將開始",
        "{left} 後開始",
        "{time} 開始",
        "明天 {time} 開始",
        "{day} {time} 開始",
        "{day} {time} 開始",
        "已閉館",
        "已閉館。{time} 開放",
        "已閉館。明天 {time} 開放",
        "已閉館。{day} {time} 開放",
        "已閉館。{day} {time} 開放",
    ),
    "ja": (
        "まもなく開始",
        "開始まで {left}",
        "{time} 開始",
        "明日 {time} 開始",
        "{day} {time} 開始",
        "{day} {time} 開始",
        "閉館中",
        "閉館中。{time} 開館",
        "閉館中。明日 {time} 開館",
        "閉館中。{day} {time} 開館",
        "閉館中。{day} {time} 開館",
    ),
    "ar": (
        "بعد لحظات",
        "يبدأ بعد {left}",
        "يبدأ في الساعة {time}",
        "يبدأ غدًا في الساعة {time}",
        "يبدأ يوم {day} في الساعة {time}",
        "يبدأ يوم {day} في الساعة {time}",
        "مغلق",
        "مغلق. يفتح في الساعة {time}",
        "مغلق. يفتح غدًا في الساعة {time}",
        "مغلق. يفتح يوم {day} في الساعة {time}",
        "مغلق. يفتح يوم {day} في الساعة {time}",
    ),
}

LANGUAGES: Final = tuple(_SHIPPED)
"""Those that are shipped; a region may follow (``de-AT``)."""

_TAG = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}|[{}]")
_TRADITIONAL: Final = frozenset({"hant", "tw", "hk", "mo"})
_CALENDAR: Final[Mapping[str, str]] = {
    "ja": "日月火水木金土曜",
    "zh": "星期一二三四五六日月",
    "ar": "الأحدالاثنينالثلاثاءالأربعاءالخميسالجمعةالسبت",
}
_LEFTWARDS: Final = frozenset(
    {"ar", "arc", "ckb", "dv", "fa", "he", "iw", "ks", "ku", "ps", "sd", "syr", "ug", "ur", "yi"}
)


def shipped_texts(language: str) -> dict[str, str]:
    """What is said in a language, by name; empty where nothing is shipped for it."""
    first, *rest = language.lower().split("-")
    name = "zh-Hant" if first == "zh" and _TRADITIONAL.intersection(rest) else first
    return dict(zip(TEXTS, _SHIPPED.get(name, ()), strict=False))


def calendar_signs(language: str) -> str:
    """Characters that days have in a language, written by the page and standing in no text."""
    return _CALENDAR.get(language.lower().partition("-")[0], "")


def direction_of(language: str) -> Literal["ltr", "rtl"]:
    """In which direction a language is written."""
    return "rtl" if language.lower().partition("-")[0] in _LEFTWARDS else "ltr"


def check_language(tag: str) -> str:
    """A language tag, as it is.

    Raises:
        ValueError: it is none.
    """
    if not _TAG.fullmatch(tag):
        raise ValueError(f"expected a language such as en, de or pt-BR, not {tag!r:.40}")
    return tag


def check_texts(texts: Mapping[str, str]) -> Mapping[str, str]:
    """Texts that a show says otherwise, as they are.

    Raises:
        ValueError: one that nobody would show, too long, or with something unknown in it.
    """
    for name, text in texts.items():
        if name not in TEXTS:
            raise ValueError(f"{name}: unknown; expected one of {', '.join(TEXTS)}")
        if len(text) > LONGEST or not text.isprintable():
            raise ValueError(f"{name}: expected one line of up to {LONGEST} characters")
        for found in _PLACEHOLDER.finditer(text):
            if found[1] not in TEXTS[name]:
                may = " and ".join(f"{{{each}}}" for each in sorted(TEXTS[name])) or "nothing"
                raise ValueError(f"{name}: {found[0]} stands for nothing here; {may} may stand")
    return texts
