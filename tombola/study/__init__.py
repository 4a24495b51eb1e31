"""What one does with tickets, as pure functions of numbers and tensors: they know no store and no experiment."""
