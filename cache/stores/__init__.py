"""The kinds of stores that an address may name; `cache/stores/urls.py` says how one is added."""
