// Package mounttable reads the mount table of Linux, however long its lines are.
package mounttable
