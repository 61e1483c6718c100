"""The store that a show names."""

from __future__ import annotations

from cache.stores.port import Store
from cache.stores.urls import StoreOptions, open_store
from server.config.show import Show


def store_of(show: Show) -> Store:
    """Where the show's sets are; it is reached only when entered.

    Raises:
        BadStoreAddress: `[store]` names none.
    """
    settings = show.settings.store
    return open_store(
        settings.url,
        StoreOptions(base=show.folder, endpoint_url=settings.endpoint_url, follow=settings.follow),
    )
