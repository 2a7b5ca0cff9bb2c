"""From LaTeX as models write it to expression trees."""
