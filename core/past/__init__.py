"""Keys and values of earlier tokens: contiguous caches and paged pools, behind what a decoder layer needs of them."""
