"""Can the model be trusted when a modality is noisy, partly covered or missing?"""
