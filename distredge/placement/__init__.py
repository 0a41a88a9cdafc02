"""Layer-wise placement: whole blocks of layers on one resource each, priced, ranked and queried."""
