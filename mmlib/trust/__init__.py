"""Can the model be believed? Noise, occlusion, missing modalities."""
