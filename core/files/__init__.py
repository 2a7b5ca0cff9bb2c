"""Files of models: safetensors through a tree of names, tokenizers."""
