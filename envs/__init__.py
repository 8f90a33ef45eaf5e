"""Problems that change."""
