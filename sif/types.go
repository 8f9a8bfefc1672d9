package sif

import "fmt"

// DataType is the type of a data object.
type DataType int32

// The data types of the format.
const (
	DataDefinition    DataType = 0x4001 + iota // definition file
	DataEnvironment                            // environment variables (historical)
	DataLabels                                 // labels as JSON (historical)
	DataPartition                              // file system
	DataSignature                              // signature of other objects
	DataJSON                                   // JSON, told apart by its name
	DataGeneric                                // anything else
	DataCryptoMessage                          // key material of an encrypted partition
	DataSBOM                                   // software bill of materials
	DataOCIRootIndex                           // index of an OCI-SIF
	DataOCIBlob                                // blob of an OCI-SIF
)

// String returns the name that the sif tools print.
func (t DataType) String() string {
	switch t {
	case DataDefinition:
		return "Def.FILE"
	case DataEnvironment:
		return "Env.Vars"
	case DataLabels:
		return "JSON.Labels"
	case DataPartition:
		return "FS"
	case DataSignature:
		return "Signature"
	case DataJSON:
		return "JSON.Generic"
	case DataGeneric:
		return "Generic/Raw"
	case DataCryptoMessage:
		return "Cryptographic Message"
	case DataSBOM:
		return "SBOM"
	case DataOCIRootIndex:
		return "OCI.RootIndex"
	case DataOCIBlob:
		return "OCI.Blob"
	}
	return fmt.Sprintf("unknown type %#x", int32(t))
}

// FSType is the file system of a partition.
type FSType int32

// The file systems that writers are known to store.
const (
	FSSquashfs        FSType = 1 // squashfs
	FSExt3            FSType = 2 // ext3
	FSArchive         FSType = 3 // archive of immutable objects
	FSRaw             FSType = 4 // anything
	FSEncrypted       FSType = 5 // squashfs in a LUKS2 container
	FSGocryptSquashfs FSType = 6 // squashfs in gocryptfs (Apptainer only)
)

// String returns the name that the sif tools print.
func (t FSType) String() string {
	switch t {
	case FSSquashfs:
		return "Squashfs"
	case FSExt3:
		return "Ext3"
	case FSArchive:
		return "Archive"
	case FSRaw:
		return "Raw"
	case FSEncrypted:
		return "Encrypted squashfs"
	case FSGocryptSquashfs:
		return "Gocryptfs squashfs"
	}
	return fmt.Sprintf("unknown file system %d", int32(t))
}

// PartitionType is the role of a partition.
type PartitionType int32

// The roles of partitions.
const (
	PartitionSystem        PartitionType = 1 // an operating system
	PartitionPrimarySystem PartitionType = 2 // the operating system that is run
	PartitionData          PartitionType = 3 // data
	PartitionOverlay       PartitionType = 4 // a writable layer
)

// String returns the name that the sif tools print.
func (t PartitionType) String() string {
	switch t {
	case PartitionSystem:
		return "System"
	case PartitionPrimarySystem:
		return "*System"
	case PartitionData:
		return "Data"
	case PartitionOverlay:
		return "Overlay"
	}
	return fmt.Sprintf("unknown partition type %d", int32(t))
}
