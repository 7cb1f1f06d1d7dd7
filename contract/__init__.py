"""What the parties agree on: model card, ticket, party identity, API data types, settings, errors. Imports no other room."""
