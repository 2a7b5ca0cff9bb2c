"""Supervised fine-tuning: configurations, loss and step, export."""
