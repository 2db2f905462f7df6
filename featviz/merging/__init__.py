"""Two aligned networks become one: averaging, repair of its statistics, and the loss along the way."""
