"""The changes of the tables, each from the one before it."""
