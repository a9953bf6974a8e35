"""When to move from prompts to weights: forecasts, the decision, and the story that ends in a recommendation."""
