// Package cases holds golden cases that all backends share: Kubernetes objects and proxy flags, the States that follow from them, and
// for each backend the text that it makes of those States. The files are in testdata, as txtar archives.
package cases
