"""The kinds of stores that an address may name; `cache/urls.py` says how one is added."""
