"""How a database of an earlier release becomes one of this release: one step for each change, run by alembic."""
