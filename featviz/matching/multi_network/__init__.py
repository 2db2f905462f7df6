"""More than two networks in one basis."""
