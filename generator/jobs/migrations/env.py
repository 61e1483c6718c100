"""What Alembic runs to change a database: over a connection that it is given.

See `generator.jobs.migrations.upgrade`.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from alembic import context

from generator.jobs.schema import metadata

# The tables of webhooks are described beside what sends them, on the same metadata.
if find_spec("generator.jobs.hook_tables") is not None:
    import_module("generator.jobs.hook_tables")

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
