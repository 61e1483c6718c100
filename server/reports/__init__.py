"""A rehearsal's report for people: a page to read, to send and to print; a table; an archive.

`view_model` puts the report into words and places, `timeline` lays out its screenings, and
`html` fills both into the templates: one file that asks for nothing.
"""

from server.reports.html import render_page

__all__ = ["render_page"]
