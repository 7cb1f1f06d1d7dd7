"""What the parties agree on: cards, tickets, identities, API types, allowances, errors. Imports no other room."""
