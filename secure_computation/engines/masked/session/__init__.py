"""How the three parties run a plan of the masked engine on shares."""
