package dirfd

// KeepNames makes a walk give up names as soon as those below take more memory.
func (w *Walk) KeepNames(bytes int) { w.keep = bytes }
