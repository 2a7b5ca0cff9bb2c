"""What ViCO does on made data where some tiles need all their image tokens: training, held-out accuracy, figures."""
