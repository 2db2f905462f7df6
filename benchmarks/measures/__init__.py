"""What the three benchmark commands measure: one file for each measure, in folders by topic, and what they share."""
