"""Integer geometry: keys, relations, kernel maps. Never sees a feature."""
