// Package deploy carries what ships beside the program: the demo's data, model bundle and pipeline file.
package deploy

import "embed"

// Demo is the folder demo.
//
//go:embed demo
var Demo embed.FS
