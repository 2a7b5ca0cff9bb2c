"""Scores of VLMEvalKit's own functions, and drawn predictions to compare ours on."""
