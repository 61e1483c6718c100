"""The Studio: the artist's server, where pictures are asked for, drawn, and looked at."""
