"""Where sets come from on this machine, and what is at hand in time."""
