"""Where the show is and what is due: all of it pure."""
