"""Who may connect, how many, and how they are served."""
