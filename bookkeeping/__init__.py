"""The books that a party keeps: its audit log, the tickets it has used, what its peers have spent."""
