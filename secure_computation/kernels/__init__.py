"""The heavy arithmetic of the masked engine in Z_2^32: linear maps, packing. Each fast form has a plain twin."""
