package treediff

import (
	"slices"

	"strata/backend/internal/dirfd"
)

// attributesDiffer compares the extended attributes that belong to the content.
func attributesDiffer(u, l *File) (bool, error) {
	a, err := u.attributes()
	if err != nil {
		return false, dirfd.IgnoreVanished(err)
	}
	b, err := l.attributes()
	if err != nil {
		return false, dirfd.IgnoreVanished(err)
	}
	return !slices.EqualFunc(a, b, dirfd.Xattr.Equal), nil
}

func (f *File) attributes() ([]dirfd.Xattr, error) {
	return f.Dir.File(f.Name).Xattrs(dirfd.IsContent(f.Marks))
}
