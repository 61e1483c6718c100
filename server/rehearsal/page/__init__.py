"""The report as a page to read, to send and to print: one file that asks for nothing.

`score` sets the show's timeline like a piece of music, staff under staff; `reading` puts the
report into words and places; `render` fills both into the templates.
"""

from server.rehearsal.page.render import render_page

__all__ = ["render_page"]
