"""What the parties agree on: cards, tickets, identities, API types, settings, errors. Imports no other room."""
