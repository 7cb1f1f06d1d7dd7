"""alembic runs this: it migrates the connection that `inference_service.storage` hands over, inside its transaction."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
