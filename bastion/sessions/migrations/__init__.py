"""The steps from one form of the sessions' database to the next, for Alembic."""
