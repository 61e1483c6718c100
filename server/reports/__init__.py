"""Reports of rehearsals: as a page, as a table in a terminal, and the last few, kept."""
