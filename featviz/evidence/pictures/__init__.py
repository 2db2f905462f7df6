"""Pictures of several networks that can be compared: from one photograph, of a whole layer, with variants, along a path."""
