"""GEN (Table 1), LRN (Fig. 2), the cascade that iterates an LRN, and their weights on disk."""
