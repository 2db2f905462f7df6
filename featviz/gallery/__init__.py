"""Pictures of many renderings: PNG grids. Knows images and captions, never a model."""
