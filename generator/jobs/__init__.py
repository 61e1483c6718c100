"""Jobs: slow work that was asked for, its items, and who does which when."""
