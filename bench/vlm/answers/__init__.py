"""What an answer to a question about a picture says: its option, by rules, or by a judge."""
