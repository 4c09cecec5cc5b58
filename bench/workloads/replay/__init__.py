"""An allocation trace, recorded once and replayed under each allocator."""
