"""What a training may tell of one patient: noise drawn at each hospital, and a ledger of what was spent."""
